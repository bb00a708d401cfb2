//! Fuzzing that every run of the tests repeats: the inputs of `corpus/<target>` of a crate as they are,
//! then mutations of them with a fixed seed. An input that once failed is kept by adding its file there.
//! `FUZZ_ROUNDS` sets the mutations per file. The tests of `mesh` use this file too.

use std::path::Path;

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

/// Shows the input when a check of it panics.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input of {}: {:?}", self.0, self.1.escape_ascii().to_string());
        }
    }
}

/// Runs `check` on every input of the target, and on so many mutations of each. `pieces` are put in at
/// random places: what the parser treats in some special way.
pub(crate) fn replay(target: &str, rounds: usize, pieces: &[&[u8]], check: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!inputs.is_empty(), "{} has no inputs", dir.display());
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(rounds);
    let mut random = Random(1);
    let run = |input: &[u8]| {
        let shown = Shown(target, input);
        check(input);
        drop(shown);
    };
    for input in &inputs {
        run(input);
        for _ in 0..rounds {
            let mut mutated = input.clone();
            for _ in 0..1 + random.below(4) {
                mutate(&mut mutated, &inputs, pieces, &mut random);
            }
            run(&mutated);
        }
    }
}

fn mutate(input: &mut Vec<u8>, inputs: &[Vec<u8>], pieces: &[&[u8]], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let length = random.below(16).min(input.len() - at);
    match random.below(7) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.below(256) as u8,
        2 => drop(input.drain(at..at + length)),
        3 => {
            let copy = input[at..at + length].to_vec();
            input.splice(at..at, copy);
        }
        4 => {
            let piece = pieces[random.below(pieces.len())];
            input.splice(at..at, piece.iter().copied());
        }
        5 => {
            let other = &inputs[random.below(inputs.len())];
            let from = random.below(other.len());
            let to = (from + random.below(64)).min(other.len());
            input.splice(at..at + length, other[from..to].iter().copied());
        }
        _ => input.truncate(at),
    }
}
