//! Every parser and loader against its kept corpus and against seeded changes of it: fuzzing that any toolchain can do.
//! `cargo +nightly fuzz run <target>` goes further, with the same properties.
#![allow(clippy::print_stdout, reason = "the counts of what was tried are part of the result")]

mod fuzz_targets;

use std::path::Path;

use fuzz_targets::{TARGETS, target};

/// Changed inputs of each target, besides the corpus itself.
const CHANGED: usize = 4000;

/// Words that parsers look for; a change may put one anywhere.
const WORDS: [&[u8]; 16] = [
    b"SET ",
    b"GET ",
    b"DRAIN 0000000000000000000000000000000000000000000000000001",
    b"\r\n",
    b"\n",
    b"%2F",
    b"%~",
    b"\xC3\xBC",
    b"tolerance=",
    b"\xEF\xBB\xBF",
    b"ERROR ",
    b"COPY ",
    b"VERIFIED messages=",
    b"\xFF\xFF\xFF\xFF",
    b".txt",
    b"4294967295",
];

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn changed(seeds: &[Vec<u8>], chance: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = chance.choice(seeds).cloned().unwrap_or_default();
    for _ in 0..chance.usize(1..6) {
        let place = chance.usize(..=bytes.len());
        let end = chance.usize(place..=bytes.len().min(place + 32));
        match chance.u8(..6) {
            0 if place < bytes.len() => bytes[place] ^= 1 << chance.u8(..8),
            1 if place < bytes.len() => bytes[place] = chance.u8(..),
            2 => drop(bytes.drain(place..end)),
            3 => drop(bytes.splice(place..place, chance.choice(WORDS).unwrap().iter().copied())),
            4 => {
                let piece = bytes[place..end].to_vec();
                drop(bytes.splice(place..place, piece));
            }
            _ => {
                let other = chance.choice(seeds).cloned().unwrap_or_default();
                let from = chance.usize(..=other.len());
                bytes.truncate(place);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes.truncate(4096);
    bytes
}

#[test]
fn no_bytes_break_a_parser() {
    for (name, _) in TARGETS {
        let (run, seeds) = (target(name), corpus(name));
        assert!(!seeds.is_empty(), "no corpus of {name}");
        seeds.iter().for_each(|seed| run(seed));
        let mut chance = fastrand::Rng::with_seed(7);
        for n in 0..CHANGED {
            let bytes = changed(&seeds, &mut chance);
            let result = std::panic::catch_unwind(|| run(&bytes));
            if let Err(panic) = result {
                println!("{name}, change {n}: {:?}", String::from_utf8_lossy(&bytes));
                println!("as bytes: {bytes:?}");
                std::panic::resume_unwind(panic);
            }
        }
        println!("{name}: {} kept inputs, {CHANGED} changed ones", seeds.len());
    }
}
