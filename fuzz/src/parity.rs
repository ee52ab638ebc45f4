//! Parity: its table, and what is mended with it.

use arbitrary::Unstructured;
use tresor_engine::format::{ObjectKind, ParityShare, ParityTable};
use tresor_engine::parity::{make, mend, verify};

use crate::kit::*;

/// An object that is made up, and parity that is, too; or its own parity, and damage to
/// both. Whatever is mended is what it was.
pub fn parity(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let how = byte(&mut input);
    let object = bytes(&mut input, 1024).repeat(1 + usize::from(how >> 2));
    let (store, name) = store_of(ObjectKind::Pack, &object);
    let share = ParityShare::new(1 + u32::from(byte(&mut input)) * 3).unwrap();
    let own = make(&object, share).unwrap();
    assert_eq!(verify(&own, Some(name.id)), Ok(()));
    let parity = if how & 1 == 0 {
        damaged(own, &mut input)
    } else {
        input.bytes(input.len() / 2).unwrap().to_vec()
    };
    let found = ParityTable::find(&parity, Some(name.id));
    let verified = verify(&parity, Some(name.id));
    assert!(verified.is_err() || found.is_some());
    let now = damaged(object.clone(), &mut input);
    store.replace(&name, &now).unwrap();
    store.put(&name.parity(), &parity).unwrap();
    let mended = mend(&store, &name).unwrap();
    if let Ok(whole) = &mended {
        assert!(whole.bytes == object, "what is mended isn't what it was");
        assert_eq!(whole.was_damaged, now != object);
    }
    assert!(now != object || verified.is_err() || mended.is_ok());
}

/// Some bytes of it changed, and perhaps cut off.
fn damaged(mut bytes: Vec<u8>, input: &mut Unstructured<'_>) -> Vec<u8> {
    for _ in 0..byte(input) % 8 {
        let at: u16 = input.arbitrary().unwrap_or_default();
        let other = byte(input);
        if let Some(there) = bytes.get_mut(usize::from(at)) {
            *there ^= other;
        }
    }
    if byte(input) % 4 == 3 {
        let len: u16 = input.arbitrary().unwrap_or_default();
        bytes.truncate(usize::from(len));
    }
    bytes
}
