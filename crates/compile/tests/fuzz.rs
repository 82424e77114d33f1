//! 100,000 random worlds, made from good objects by random damage: nothing panics, and following changes leads where compiling anew does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use bowline_compile::fuzz_objects;

const CASES: usize = 100_000;

/// The seeds of the fuzz target `objects`.
const SEEDS: [&str; 6] = [
    include_str!("../../../fuzz/seeds/objects/cluster_policy"),
    include_str!("../../../fuzz/seeds/objects/node"),
    include_str!("../../../fuzz/seeds/objects/pod"),
    include_str!("../../../fuzz/seeds/objects/policy"),
    include_str!("../../../fuzz/seeds/objects/service"),
    include_str!("../../../fuzz/seeds/objects/external"),
];

/// What is put in the place of values and of anything else.
const PIECES: [&str; 28] = [
    "null",
    "{}",
    "[]",
    "[{}]",
    "[null]",
    "\"\"",
    "true",
    "-1",
    "0",
    "65536",
    "1e999",
    "9223372036854775807",
    "18446744073709551616",
    "\"::\"",
    "\"::ffff:10.0.0.1\"",
    "\"0.0.0.0/0\"",
    "\"fd42:1::/129\"",
    "\"10.42.1.1\"",
    "\"255.255.255.255\"",
    "\"None\"",
    "\"IPv6\"",
    "\"SCTP\"",
    "\"\\u0000\"",
    "\"a\\n/..\"",
    "\n",
    "\"",
    "}",
    ",",
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

/// Where values of the JSON text begin and end: after a colon, up to a comma or bracket; whole strings where there is one.
fn values(text: &[u8]) -> Vec<(usize, usize)> {
    let starts = (2..text.len()).filter(|at| text[at - 2..*at] == *b"\":");
    let mut values = Vec::new();
    for start in starts {
        let closes: &[u8] = if text[start] == b'"' { b"\"" } else { b",}]" };
        let length = text[start + 1..].iter().position(|byte| closes.contains(byte)).unwrap_or(0);
        values.push((start, start + 1 + length + usize::from(text[start] == b'"')));
    }
    values
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
            3 => {
                // A line again, as another state of the object.
                let line = text.lines().nth(random.below(2)).unwrap_or_default();
                bytes.extend(line.bytes().chain([b'\n']));
            }
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
fn objects_of_any_bytes_are_survived() {
    let halves = [1, 2].map(|seed: u64| {
        std::thread::spawn(move || {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for _ in 0..CASES / 2 {
                let seed = SEEDS[random.below(SEEDS.len())];
                let bytes = damage(seed, &mut random);
                fuzz_objects(&bytes);
            }
        })
    });
    for half in halves {
        half.join().unwrap();
    }
}

#[test]
fn seeds_are_good_objects() {
    let all = SEEDS.concat();
    let intent = fuzz_objects(all.as_bytes());
    assert_eq!(intent.services.services.len(), 1, "{:?}", intent.services);
    assert_eq!(intent.policy.rules.len(), 2, "{:?}", intent.policy);
    assert_eq!(intent.policy.pods.len(), 1);
    assert!(intent.routes.local.is_some());
}
