//! With the linker of GNU, which can't load a DLL late by itself: makes the library that
//! does, so that the program runs without WinFsp until it is to mount something.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=winfsp.def");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") != "windows" || target("ENV") != "gnu" {
        return;
    }
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let library = Path::new(&out).join("libwinfsp_late.a");
    let prefix = format!("{}-w64-mingw32-", target("ARCH"));
    let names = [format!("{prefix}dlltool"), "dlltool".to_owned()];
    let made = names.iter().any(|program| {
        let mut dlltool = Command::new(program);
        dlltool.args(["--input-def", "winfsp.def", "--output-delaylib"]).arg(&library);
        dlltool.status().is_ok_and(|status| status.success())
    });
    if !made {
        println!("cargo:warning=dlltool (of mingw-w64's binutils) is needed and failed");
    }
    // Whole, since the crate that calls it comes later for the linker.
    println!("cargo:rustc-link-search=native={out}");
    println!("cargo:rustc-link-lib=static:+whole-archive,-bundle=winfsp_late");
    println!("cargo:rustc-link-lib=delayimp");
}
