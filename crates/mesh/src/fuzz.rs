//! Values and files of peers, fuzzed: the harness is that of `kvstore`, with the pieces of JSON and YAML.

#[path = "../../kvstore/tests/common/fuzz.rs"]
mod harness;

/// Pieces that parsers treat in some special way.
const PIECES: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"4294967296",
    b"1e999",
    b"\"\"",
    b"\\ud800",
    b"\xff",
    b"\0",
    b"/",
    b";",
    b"=",
    b"::",
    b"%",
    b"\n",
    b"0",
];

/// Runs `check` on every input of the target.
pub(crate) fn replay(target: &str, check: impl Fn(&[u8])) {
    harness::replay(target, 2000, &PIECES, check);
}
