//! 100,000 files, made from good ones by random damage: each is read or refused, and never is a promise broken.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use bowline_kubeproxy::fuzz_config;

const CASES: usize = 100_000;

/// The seeds of the fuzz target `kube_proxy_config`.
const SEEDS: [&str; 3] = [
    include_str!("../../../fuzz/seeds/kube_proxy_config/some"),
    include_str!("../../../fuzz/seeds/kube_proxy_config/other"),
    include_str!("../../../fuzz/seeds/kube_proxy_config/json"),
];

/// What is put in the place of values and of anything else.
const PIECES: [&str; 30] = [
    "null",
    "~",
    "{}",
    "[]",
    "[primary]",
    "\"\"",
    "true",
    "-1",
    "0",
    "2147483648",
    "1e999",
    ".nan",
    "9223372036854775808",
    "0x7f",
    "1h0m0s",
    "-1s",
    "\"::\"",
    "10.0.0.0/33",
    "fd00::/8",
    "0.0.0.0:0",
    "*a",
    "&a [*a]",
    "<<: *a",
    "!!str 1",
    "---\n",
    "\n  ",
    "\t",
    "\"",
    "\u{feff}",
    ": ",
];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// Where values begin and end: after a colon and a blank, up to the end of the line.
fn values(text: &[u8]) -> Vec<(usize, usize)> {
    let starts = (2..text.len()).filter(|at| text[at - 2..*at] == *b": ");
    starts
        .map(|start| (start, text[start..].iter().position(|byte| b"\n,".contains(byte)).map_or(text.len(), |length| start + length)))
        .collect()
}

fn damage(text: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        let piece = PIECES[random.below(PIECES.len())];
        let places = values(&bytes);
        let at = random.below(bytes.len());
        let end = (at + random.below(12)).min(bytes.len());
        match random.below(8) {
            0 => drop(bytes.splice(at..end, piece.bytes())),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = byte.wrapping_add(1)),
            _ if places.is_empty() => {}
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
            (0..CASES / 2).filter(|_| fuzz_config(&damage(SEEDS[random.below(SEEDS.len())], &mut random))).count()
        })
    });
    let read: usize = halves.into_iter().map(|half| half.join().unwrap()).sum();
    assert!(read > CASES / 20 && read < CASES - CASES / 20, "{read} of {CASES} were read: the damage does not try both ways");
}

#[test]
fn seeds_are_good_files() {
    for seed in SEEDS {
        assert!(fuzz_config(seed.as_bytes()), "{seed}");
    }
}
