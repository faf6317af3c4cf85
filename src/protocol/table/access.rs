//! What a command does to each id that it names: what rights of users are held against.

use super::{DataOp, Op, RegisterOp, ScriptOp, Spec};

/// What is done to a message. Neither: it is only looked whether it is there, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access {
    /// Its content, or when it ends, is told, or goes into another one.
    pub read: bool,
    /// It is written or deleted.
    pub write: bool,
}

impl Access {
    /// That it is there is told.
    pub const LOOK: Self = Self { read: false, write: false };
    /// It is told.
    pub const READ: Self = Self { read: true, write: false };
    /// It is written.
    pub const WRITE: Self = Self { read: false, write: true };
    /// It is told and written.
    pub const BOTH: Self = Self { read: true, write: true };
}

impl Spec {
    /// What it does to the id that is the `nth` of those that a request of these words names, from 0.
    ///
    /// Where Redis has the command this is what its key specifications say (7.0.15): `access` reads; `update`, `insert` and
    /// `delete` write.
    pub fn access<T: AsRef<[u8]>>(&self, words: &[T], nth: usize) -> Access {
        match self.op {
            Op::Data(op) => of_data(op, words, nth),
            Op::Script(ScriptOp::EvalRo | ScriptOp::EvalShaRo) => Access::READ,
            Op::Script(_) => Access::BOTH,
            // Who holds a message, how long it is, and WATCH, tell that it is there, or was written.
            Op::Register(RegisterOp::Where) | Op::Session(_) | Op::Tool(_) => Access::LOOK,
            _ => Access::BOTH,
        }
    }
}

fn of_data<T: AsRef<[u8]>>(op: DataOp, words: &[T], nth: usize) -> Access {
    use DataOp::*;
    let has = |option: &[u8]| words.iter().skip(3).any(|word| word.as_ref().eq_ignore_ascii_case(option));
    match op {
        Exists | Strlen | Touch | Type => Access::LOOK,
        BitCount | BitFieldRo | BitPos | ExpireTime | Get | GetBit | GetRange | Lcs | Mget | PExpireTime | Pttl
        | Ttl => Access::READ,
        Append | Del | Expire | ExpireAt | Mset | MsetEx | MsetNx | PExpire | PExpireAt | Persist | PSetEx | SetEx
        | SetNx | SetRange => Access::WRITE,
        Decr | DecrBy | GetDel | GetEx | GetSet | Incr | IncrBy | IncrByFloat | IncrEx | SetBit => Access::BOTH,
        // With a condition it tells what the message is not.
        DelEx if words.len() == 2 => Access::WRITE,
        DelEx | DelIfEq => Access::BOTH,
        Set if [&b"GET"[..], b"IFEQ", b"IFNE"].iter().any(|option| has(option)) => Access::BOTH,
        Set => Access::WRITE,
        BitField if only_reads(words) => Access::READ,
        BitField => Access::BOTH,
        BitOp if nth == 0 => Access::WRITE,
        BitOp => Access::READ,
        Copy if nth == 0 => Access::READ,
        Rename | RenameNx if nth == 0 => Access::BOTH,
        Copy | Rename | RenameNx => Access::WRITE,
    }
}

/// Whether a BITFIELD has no operation that writes; whatever cannot be told is taken for writing.
fn only_reads<T: AsRef<[u8]>>(words: &[T]) -> bool {
    let mut place = 2;
    while let Some(operation) = words.get(place) {
        place += match operation.as_ref().to_ascii_uppercase().as_slice() {
            b"GET" => 3,
            b"OVERFLOW" => 2,
            _ => return false,
        };
    }
    place == words.len().max(2)
}
