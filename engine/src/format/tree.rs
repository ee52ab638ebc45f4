//! Pages of trees and of chunk lists: the plaintext of tree blobs.

use minicbor::{Decode, Encode};

use super::ids::BlobId;
use super::node::{Extent, ExtentPage, Node, is_valid_name, total};

/// A page of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TreePage {
    /// Nodes, sorted by name, no name twice.
    #[n(0)]
    Leaf(#[n(0)] Vec<Node>),
    /// Pages of a large directory, in order.
    #[n(1)]
    Branch(#[n(0)] Vec<Branch>),
}

/// One page below a branch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Branch {
    /// Name of the first entry below.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub first: Vec<u8>,
    /// Number of entries below.
    #[n(1)]
    pub entries: u64,
    #[n(2)]
    pub id: BlobId,
}

/// A page of a chunk list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ContentPage {
    #[n(0)]
    Extents(#[n(0)] Vec<Extent>),
    #[n(1)]
    Pages(#[n(0)] Vec<ExtentPage>),
}

impl TreePage {
    /// Decodes and checks what every reader relies on: valid names, in order.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let page: Self = minicbor::decode(bytes).map_err(|e| e.to_string())?;
        let in_order = match &page {
            Self::Leaf(nodes) => {
                if !nodes.iter().all(|n| is_valid_name(&n.name)) {
                    return Err("an entry has an impossible name".into());
                }
                if !nodes.iter().all(Node::has_valid_streams) {
                    return Err("the streams of an entry have impossible names".into());
                }
                nodes.is_sorted_by(|a, b| a.name < b.name)
            }
            Self::Branch(pages) => pages.is_sorted_by(|a, b| a.first < b.first),
        };
        if in_order { Ok(page) } else { Err("entries are not in order".into()) }
    }

    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

impl ContentPage {
    /// Bytes of the file that it describes; `None` if that can't be.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Extents(extents) => total(extents.iter().map(|e| e.len)),
            Self::Pages(pages) => total(pages.iter().map(|p| p.len)),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        minicbor::decode(bytes).map_err(|e| e.to_string())
    }

    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    // Writing to a Vec can't fail, and none of our types refuses to encode.
    minicbor::to_vec(value).unwrap_or_default()
}
