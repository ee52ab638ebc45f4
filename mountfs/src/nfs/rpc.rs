//! Remote procedure calls (RFC 5531): what stands around the arguments and results.

use nfs3_types::rpc::{
    RPC_VERSION_2, accept_stat_data, accepted_reply, auth_stat, fragment_header, msg_body,
    opaque_auth, rejected_reply, reply_body, rpc_msg,
};
use nfs3_types::xdr_codec::Pack;

use super::xdr::{Args, Garbage};

const CALL: u32 = 0;
const AUTH_UNIX: u32 = 1;
/// Longest credentials, machine name and list of groups that RFC 5531 allows.
const MOST_AUTH: usize = 400;
const MOST_NAME: usize = 255;
const MOST_GROUPS: u32 = 16;

/// Who a client says is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

pub struct Call<'a> {
    pub xid: u32,
    pub program: u32,
    pub version: u32,
    pub procedure: u32,
    /// None if the client doesn't say.
    pub who: Option<Credentials>,
    pub args: Args<'a>,
}

/// Why a message is no call that can be answered.
#[derive(Debug)]
pub enum Malformed {
    /// It makes no sense: nothing that follows on this connection will.
    Senseless,
    /// It is to be answered with this.
    Refused(Vec<u8>),
}

impl From<Garbage> for Malformed {
    fn from(_: Garbage) -> Self {
        Self::Senseless
    }
}

pub fn parse(record: &[u8]) -> Result<Call<'_>, Malformed> {
    let mut args = Args(record);
    let xid = args.u32()?;
    if args.u32()? != CALL {
        return Err(Malformed::Senseless);
    }
    if args.u32()? != RPC_VERSION_2 {
        let mismatch = rejected_reply::rpc_mismatch(RPC_VERSION_2, RPC_VERSION_2);
        return Err(Malformed::Refused(denied(xid, mismatch)));
    }
    let (program, version, procedure) = (args.u32()?, args.u32()?, args.u32()?);
    let (flavor, body) = (args.u32()?, args.opaque(MOST_AUTH)?);
    let (_, _) = (args.u32()?, args.opaque(MOST_AUTH)?);
    let who = match flavor {
        AUTH_UNIX => Some(credentials(&mut Args(body)).map_err(|Garbage| {
            let bad = rejected_reply::auth_error(auth_stat::AUTH_BADCRED);
            Malformed::Refused(denied(xid, bad))
        })?),
        _ => None,
    };
    Ok(Call { xid, program, version, procedure, who, args })
}

fn credentials(body: &mut Args<'_>) -> Result<Credentials, Garbage> {
    let (_stamp, _machine) = (body.u32()?, body.opaque(MOST_NAME)?);
    let (uid, gid, count) = (body.u32()?, body.u32()?, body.u32()?);
    if count > MOST_GROUPS {
        return Err(Garbage);
    }
    let groups = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
    Ok(Credentials { uid, gid, groups })
}

/// A whole reply, with what stands before it on a stream.
pub fn accepted(xid: u32, stat: accept_stat_data, body: &[u8]) -> Vec<u8> {
    let accepted = accepted_reply { verf: opaque_auth::default(), reply_data: stat };
    message(xid, reply_body::MSG_ACCEPTED(accepted), body)
}

fn denied(xid: u32, why: rejected_reply) -> Vec<u8> {
    message(xid, reply_body::MSG_DENIED(why), &[])
}

fn message(xid: u32, reply: reply_body<'_>, body: &[u8]) -> Vec<u8> {
    let head = packed(&rpc_msg { xid, body: msg_body::REPLY(reply) });
    let len = (head.len() + body.len()) as u32 & fragment_header::MASK;
    [&fragment_header::new(len, true).into_xdr_buf()[..], &head, body].concat()
}

/// What is written to memory can't fail, but for lengths over 4 GiB, which nothing here has.
pub fn packed(value: &impl Pack) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.packed_size());
    match value.pack(&mut out) {
        Ok(_) => out,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn credentials_are_read_and_bounded() {
        let unix = call(&[7, 0, 2, 100_003, 3, 1, 1, 28, 0, 0, 1000, 100, 2, 4, 27, 0, 0, 5]);
        let call_of = parse(&unix).unwrap();
        assert_eq!((call_of.xid, call_of.procedure, call_of.args.0), (7, 1, &[0, 0, 0, 5][..]));
        let who = Credentials { uid: 1000, gid: 100, groups: vec![4, 27] };
        assert_eq!(call_of.who, Some(who));
        let many = call(&[7, 0, 2, 100_003, 3, 1, 1, 20, 0, 0, 1000, 100, u32::MAX, 0, 0]);
        assert!(matches!(parse(&many), Err(Malformed::Refused(_))));
        let long = call(&[7, 0, 2, 100_003, 3, 1, 1, 0x7fff_ffff, 0, 0]);
        assert!(matches!(parse(&long), Err(Malformed::Senseless)));
        assert!(matches!(parse(&call(&[7, 0, 3])), Err(Malformed::Refused(_))));
        assert!(matches!(parse(&call(&[7, 1, 2])), Err(Malformed::Senseless)), "a reply");
    }
}
