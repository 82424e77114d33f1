//! Compiles the BPF programs with clang, in front of them the assertions of the layout that Rust expects.

#![allow(clippy::disallowed_methods, reason = "a build script runs a compiler and is told where by the environment")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

#[allow(unreachable_pub, reason = "the table is public in the library")]
#[path = "src/layout.rs"]
mod layout;

/// The sources, each an object of its own.
const PROGRAMS: [&str; 2] = ["sockets", "fastpath"];

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    for watched in ["c/abi.h", "c/address.h", "c/packet.h", "src/layout.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    std::fs::write(out.join("layout.h"), assertions()).expect("OUT_DIR can be written");
    for program in PROGRAMS {
        println!("cargo::rerun-if-changed=c/{program}.c");
        compile(program, &here, &out);
    }
}

/// Makes an object of `c/NAME.c` in the directory that cargo gives.
fn compile(program: &str, here: &Path, out: &Path) {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let multiarch = format!("/usr/include/{}-linux-gnu", std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default());
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fno-ident", "-c"])
        // Paths of the machine that builds do not belong into an image.
        .arg(format!("-ffile-prefix-map={}=.", here.display()))
        .arg(format!("-ffile-prefix-map={}=.", out.display()))
        .args(["-fdebug-compilation-dir", "."])
        .arg(format!("-I{multiarch}"))
        .arg("-I")
        .arg(out)
        .arg(here.join("c").join(format!("{program}.c")))
        .arg("-o")
        .arg(out.join(format!("{program}.o")))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            panic!("{clang}: {status}; the BPF programs need clang 14 or later, libbpf-dev and linux-libc-dev (scripts/packages)")
        }
        Err(error) => panic!("{clang}: {error}; the BPF programs need clang 14 or later, libbpf-dev and linux-libc-dev (scripts/packages)"),
    }
}

/// The table as C.
fn assertions() -> String {
    let mut text = String::from("/* Made by build.rs from src/layout.rs. */\n");
    for (name, size, fields) in layout::LAYOUTS {
        let _ = writeln!(text, "_Static_assert(sizeof(struct {name}) == {size}, \"size of {name}\");");
        for (field, offset, size) in *fields {
            let _ = writeln!(text, "_Static_assert(__builtin_offsetof(struct {name}, {field}) == {offset}, \"{name}.{field}\");");
            let _ = writeln!(text, "_Static_assert(sizeof(((struct {name} *)0)->{field}) == {size}, \"size of {name}.{field}\");");
        }
    }
    text
}
