//! Another build of the executable: the same one, with BPF programs of other instructions that do the same.
//!
//! A build is told by its programs: by the object's hash at sockets, by each program's tag at links. In a copy of the executable the programs'
//! instructions of the form `w0 = 1` are `r0 = 1`, which is the same for a constant that is not negative. So an agent has everything to do that it
//! has after an upgrade, and what packets see of it is the upgrade's doing alone. Reference: RFC 9669 (the instructions), the ELF specification.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::lab::BOWLINE;

/// Bytes of an instruction.
const INSTRUCTION: usize = 8;
/// ALU | MOV | K: a constant into the lower half of a register, whose upper half becomes zero.
const MOVE_32: u8 = 0xb4;
/// ALU64 | MOV | K: a constant, extended by its sign, into a register.
const MOVE_64: u8 = 0xb7;

/// `SHF_EXECINSTR`.
const EXECUTABLE: u64 = 4;

/// The executable; its file goes with it.
pub(crate) struct Twin(PathBuf);

impl Drop for Twin {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Twin {
    /// Makes it.
    pub(crate) fn make() -> Result<Twin> {
        let mut bytes = fs::read(BOWLINE).with_context(|| BOWLINE.to_owned())?;
        for object in [bowline_bpf::sockets(), bowline_bpf::fastpath()] {
            let aligned = (0..bytes.len().saturating_sub(object.len())).step_by(INSTRUCTION);
            let places = aligned.filter(|at| bytes.get(*at..at + object.len()) == Some(object)).collect::<Vec<_>>();
            ensure!(!places.is_empty(), "{BOWLINE} does not hold the programs that this test was built with");
            let other = in_another_form(object)?;
            for at in places {
                bytes.get_mut(at..at + object.len()).context("beyond the end")?.copy_from_slice(&other);
            }
        }
        let twin = Twin(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bowline-twin-{}", std::process::id())));
        fs::write(&twin.0, bytes).with_context(|| twin.0.display().to_string())?;
        fs::set_permissions(&twin.0, fs::Permissions::from_mode(0o755))?;
        Ok(twin)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// The object with its instructions that move a constant in another form.
fn in_another_form(object: &[u8]) -> Result<Vec<u8>> {
    let mut other = object.to_vec();
    let mut changed = 0;
    for (offset, length) in programs_of(object)? {
        let section = other.get_mut(offset..offset + length).context("a section beyond the end")?;
        for instruction in section.chunks_exact_mut(INSTRUCTION) {
            let positive = instruction.last().is_some_and(|top| *top < 0x80);
            if let Some(code) = instruction.first_mut().filter(|code| **code == MOVE_32 && positive) {
                *code = MOVE_64;
                changed += 1;
            }
        }
    }
    ensure!(changed > 0, "programs that move no constant");
    Ok(other)
}

/// Offset and length of each section of an ELF object that holds a program.
fn programs_of(object: &[u8]) -> Result<Vec<(usize, usize)>> {
    let number = |at: usize, bytes: usize| -> Result<u64> {
        let field = object.get(at..at + bytes).context("an object that is cut short")?;
        Ok(field.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let headers = usize::try_from(number(0x28, 8)?)?;
    let (each, count) = (usize::try_from(number(0x3a, 2)?)?, usize::try_from(number(0x3c, 2)?)?);
    let mut found = Vec::new();
    for header in (0..count).map(|n| headers + n * each) {
        let (flags, offset, length) = (number(header + 8, 8)?, number(header + 0x18, 8)?, number(header + 0x20, 8)?);
        if flags & EXECUTABLE != 0 && length > 0 {
            found.push((usize::try_from(offset)?, usize::try_from(length)?));
        }
    }
    Ok(found)
}
