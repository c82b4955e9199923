//! Tells bpf-linker to leave small memory operations to LLVM's own limits. Its default expands them in order, and as a
//! side effect turns every zeroing of two words into a call of a loop over bytes, which costs time at run time and makes
//! older verifiers give up their pruning.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
}
