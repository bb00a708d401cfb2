//! Compiles the kernel half with clang. `CLANG` names another compiler; `CAUSEWAY_BPF_OBJECT_DIR`
//! a folder of objects built elsewhere, for machines without one.

use std::path::PathBuf;
use std::process::Command;

const OBJECTS: [&str; 6] = ["bpf_host", "bpf_lxc", "bpf_overlay", "bpf_sock", "bpf_xdp", "peer"];

fn main() {
    let source = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../bpf");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    println!("cargo:rerun-if-changed={}", source.display());
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-env-changed=CAUSEWAY_BPF_OBJECT_DIR");
    for name in OBJECTS {
        let object = out.join(format!("{name}.bpf.o"));
        if let Ok(built) = std::env::var("CAUSEWAY_BPF_OBJECT_DIR") {
            let from = PathBuf::from(built).join(format!("{name}.bpf.o"));
            std::fs::copy(&from, &object).unwrap_or_else(|e| panic!("cannot copy {}: {e}", from.display()));
            continue;
        }
        compile(&source.join(format!("{name}.bpf.c")), &object);
    }
}

fn compile(source: &std::path::Path, object: &std::path::Path) {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang-19".into());
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"])
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(_) => panic!("{clang} refused {}", source.display()),
        Err(error) => panic!(
            "cannot run {clang} ({error}); install it with: apt-get install clang-19 linux-libc-dev \
             (or name another with CLANG)"
        ),
    }
}
