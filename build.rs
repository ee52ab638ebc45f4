//! Microsoft's linker can load WinFsp's DLL late: the program runs without it until it is
//! to mount something. (For GNU's see mountfs/build.rs.)

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("ENV") == "msvc" {
        let dll = if target("ARCH") == "aarch64" { "winfsp-a64.dll" } else { "winfsp-x64.dll" };
        println!("cargo:rustc-link-arg-bins=/DELAYLOAD:{dll}");
        println!("cargo:rustc-link-lib=dylib=delayimp");
    }
}
