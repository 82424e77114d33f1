//! 100,000 damaged files of policy cases: nothing panics, what is refused is refused with a place, and what is explained is what the oracle
//! says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use bowline_compile::cases::{Suite, fuzz_cases};

const CASES: usize = 100_000;

/// The seeds of the fuzz target `policy_cases`.
const SEEDS: [&str; 2] = [include_str!("../../../fuzz/seeds/policy_cases/shop"), include_str!("../../../fuzz/seeds/policy_cases/nodes")];

/// What is put in the place of words.
const PIECES: [&str; 26] = [
    "null",
    "{}",
    "[]",
    "[{}]",
    "''",
    "true",
    "-1",
    "0",
    "65536",
    "1e999",
    "80",
    "\"::\"",
    "0.0.0.0/0",
    "10.42.0.1",
    "255.255.255.255",
    "None",
    "shop/web",
    "svc/shop/front",
    "x/a",
    "n1",
    "&a [*a]",
    "\u{0}",
    "drop",
    "reject",
    "UDP",
    "\n",
];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 1;
        usize::try_from(drawn).unwrap() % limit.max(1)
    }
}

/// Where words begin and end.
fn words(text: &[u8]) -> Vec<(usize, usize)> {
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"./:-".contains(byte);
    let mut words = Vec::new();
    let mut start = None;
    for (at, byte) in text.iter().enumerate() {
        match (inside(byte), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                words.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    words
}

fn damage(text: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        let piece = PIECES[random.below(PIECES.len())];
        let places = words(&bytes);
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => drop(bytes.splice(at..(at + random.below(12)).min(bytes.len()), piece.bytes())),
            1 => drop(bytes.drain(at..(at + random.below(12)).min(bytes.len()))),
            _ if places.is_empty() => {}
            2 => {
                // A word from elsewhere in the file.
                let (from, to) = places[random.below(places.len())];
                let word = bytes[from..to].to_vec();
                let (start, end) = places[random.below(places.len())];
                bytes.splice(start..end, word);
            }
            _ => {
                let (start, end) = places[random.below(places.len())];
                bytes.splice(start..end, piece.bytes());
            }
        }
    }
    bytes
}

#[test]
fn files_of_any_bytes_are_survived() {
    let halves = [1, 2].map(|seed: u64| {
        std::thread::spawn(move || {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for _ in 0..CASES / 2 {
                let seed = SEEDS[random.below(SEEDS.len())];
                fuzz_cases(&damage(seed, &mut random));
            }
        })
    });
    for half in halves {
        half.join().unwrap();
    }
}

#[test]
fn seeds_are_good_files() {
    for seed in SEEDS {
        assert!(Suite::read(seed, "seed").unwrap().cases.len() >= 3);
        fuzz_cases(seed.as_bytes());
    }
}
