//! Backups, and the lists of their files.

use bytes::BytesMut;
use hatokuse::archive::{Damage, Item, Reader, Writer, manifest};

use super::Script;

/// What a backup says that arrives in pieces of `step` bytes, and the fault that ended it.
fn items(bytes: &[u8], step: usize) -> (Vec<Item>, Option<Damage>) {
    let (mut reader, mut buffer, mut all) = (Reader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match reader.read(&mut buffer) {
                Ok(Some(item)) => all.push(item),
                Ok(None) => break,
                Err(fault) => return (all, Some(fault)),
            }
        }
    }
    let fault = reader.finish(&buffer).err();
    (all, fault)
}

/// Any split says the same, and what is read to its end is, byte for byte, what is written of it.
pub(super) fn backup(data: &[u8]) {
    let mut script = Script(data);
    let step = usize::from(script.byte());
    let bytes = script.0;
    let (all, fault) = items(bytes, bytes.len());
    assert_eq!((&all, &fault), (&items(bytes, step).0, &items(bytes, step).1), "in pieces of {step}");
    if let Some(fault) = fault {
        assert!(fault == fault.clone().within(0) && !fault.to_string().contains('\n'));
        return;
    }
    let mut out = Vec::new();
    let Some(Item::Header(header)) = all.first() else { panic!("a backup without a header") };
    let mut writer = Writer::begin(header, &mut out);
    for item in &all[1..] {
        if let Item::Message((id, version, expires, message)) = item {
            writer.message(&(id.clone(), *version, *expires, message.as_deref()), &mut out);
        }
    }
    assert_eq!(all.last(), Some(&Item::End(writer.end(&mut out))));
    assert_eq!(out, bytes);
}

/// Any bytes are a list or are refused in one line.
pub(super) fn list(data: &[u8]) {
    match manifest::read(data) {
        Ok(files) => assert!(data.ends_with(b"\n") && files.len() < data.len()),
        Err(why) => assert!(!why.to_string().contains('\n')),
    }
}
