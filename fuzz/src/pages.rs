//! Pages of directories and of chunk lists.

use jiff::tz::TimeZone;
use tresor_engine::format::{Content, ContentPage, Node, TreePage, display_name};

use crate::human;
use crate::kit::*;
use crate::objects::check_time;

pub fn tree_page(input: &[u8]) {
    let Ok(page) = TreePage::decode(input) else { return };
    let bytes = page.encode();
    assert!(!bytes.is_empty());
    assert_eq!(TreePage::decode(&bytes).as_ref(), Ok(&page));
    match &page {
        TreePage::Leaf(nodes) => {
            assert!(nodes.windows(2).all(|pair| pair[0].name < pair[1].name));
            nodes.iter().for_each(check_node);
        }
        TreePage::Branch(pages) => assert!(pages.windows(2).all(|p| p[0].first < p[1].first)),
    }
}

/// What holds for each node of a page that is taken up.
pub fn check_node(node: &Node) {
    let name = node.name.as_slice();
    assert!(!matches!(name, b"" | b"." | b".."));
    assert!(!name.contains(&b'/') && !name.contains(&0));
    [node.mtime, node.atime, node.ctime].into_iter().for_each(check_time);
    if node.has_whole_content() && node.is_file() {
        let size: u128 = match node.content.as_ref() {
            Some(Content::Inline(bytes)) => bytes.len() as u128,
            Some(Content::Extents(extents)) => extents.iter().map(|e| u128::from(e.len)).sum(),
            Some(Content::Pages { pages, .. }) => pages.iter().map(|p| u128::from(p.len)).sum(),
            None => panic!("a file without content is whole"),
        };
        assert_eq!(size, u128::from(node.size));
    }
    // What is shown of it.
    assert_printable(&display_name(name));
    assert_printable(&human::facts(node, &TimeZone::UTC));
    assert!(node.same_stamp(&node.clone()));
}

pub fn content_page(input: &[u8]) {
    let Ok(page) = ContentPage::decode(input) else { return };
    let bytes = page.encode();
    assert!(!bytes.is_empty());
    assert_eq!(ContentPage::decode(&bytes), Ok(page));
}
