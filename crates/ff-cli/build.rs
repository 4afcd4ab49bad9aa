//! Compiles `src/closed_stdout.c` into the program: it must run before the standard library starts.

fn main() {
    const SOURCE: &str = "src/closed_stdout.c";
    println!("cargo:rerun-if-changed={SOURCE}");
    for object in cc::Build::new().file(SOURCE).compile_intermediates() {
        println!("cargo:rustc-link-arg-bin=ff={}", object.display());
    }
}
