# shellcheck shell=bash
# What it takes to build for Windows on Debian.

windows_target=x86_64-pc-windows-gnu

# has_std TARGET: whether Rust's library for it is there.
has_std() {
    compgen -G "$(rustc --print sysroot)/lib/rustlib/$1/lib/libstd-*.rlib" >/dev/null
}

# std_flags TARGET: prints the options for cargo that this needs. Where no library for the
# target can be had, it is built from its source.
std_flags() {
    if has_std "$1" || { command -v rustup >/dev/null 2>&1 && rustup -q target add "$1" >&2; }; then
        return 0
    fi
    need_rust_source >&2 || return 1
    echo "-Zbuild-std=std,panic_unwind,panic_abort"
}

# The source of the library of exactly this rustc: by rustup, or from Debian's backports.
need_rust_source() {
    local place
    place=$(rustc --print sysroot)/lib/rustlib/src/rust
    [ -e "$place/library/std/Cargo.toml" ] && return 0
    if command -v rustup >/dev/null 2>&1 && rustup -q component add rust-src; then
        return 0
    fi
    rust_source_of_debian "$place"
}

# rust_source_of_debian FOLDER: fills that folder of the toolchain.
rust_source_of_debian() {
    local place=$1 scratch config version
    version=$(rustc --version | cut -d ' ' -f 2)
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/rust-src.XXXXXX")
    config=$(debian_apart "$scratch" trixie-backports) && (
        export APT_CONFIG=$config
        cd "$scratch" &&
            package=$(apt-cache madison rust-src | tr -d ' ' | cut -d '|' -f 2 | grep -m 1 "^$version") &&
            apt-get download -qq "rust-src=$package" &&
            dpkg -x rust-src_*.deb tree &&
            library=$(find tree -path '*/std/Cargo.toml' | head -n 1) &&
            rm -rf "$place" && mkdir -p "$place" &&
            cp -r "$(dirname "$(dirname "$library")")" "$place/library"
    ) || {
        echo "The source of Rust $version is needed (rust-src), and neither rustup nor Debian has it" >&2
        rm -rf "$scratch"
        return 1
    }
    rm -rf "$scratch"
}

# build_windows CARGO-ARGUMENTS…: cargo for Windows, with the gcc of mingw.
build_windows() {
    need_packages x86_64-w64-mingw32-gcc=gcc-mingw-w64-x86-64 x86_64-w64-mingw32-g++=g++-mingw-w64-x86-64 \
        x86_64-w64-mingw32-dlltool=binutils-mingw-w64-x86-64
    local flags
    flags=$(std_flags "$windows_target") || return 1
    # shellcheck disable=SC2086 # no option rather than an empty one
    env ${flags:+RUSTC_BOOTSTRAP=1} CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc \
        cargo "$1" --target "$windows_target" $flags "${@:2}"
}

# build_test_driver FOLDER: the real DLL of WinFsp, which comes with the crate winfsp-sys,
# and in front of it one that stands in for the driver (tests/windows/driver.c).
build_test_driver() {
    local folder=$1 crate real stand_in=tests/windows/driver.c tool=x86_64-w64-mingw32
    crate=$(cargo metadata --format-version 1 --locked | python3 -c '
import json, sys
crates = json.load(sys.stdin)["packages"]
print(next(c["manifest_path"] for c in crates if c["name"] == "winfsp-sys"))') || return 1
    crate=$(dirname "$crate")/winfsp
    real=$folder/winfsp_real.dll
    cp "$crate/bin/winfsp-x64.dll" "$real"
    # Everything it exports, but what the stand-in has itself, leads to it.
    $tool-objdump -p "$real" | awk '/^\[Ordinal\/Name Pointer\] Table/ { on = 1; next }
        on && NF < 2 { on = 0 } on { print $NF }' >"$folder/names"
    { echo "LIBRARY winfsp_real.dll"; echo EXPORTS; cat "$folder/names"; } >"$folder/real.def"
    $tool-dlltool -d "$folder/real.def" -l "$folder/libwinfsp_real.a"
    {
        echo "LIBRARY winfsp-x64.dll"
        echo EXPORTS
        while read -r name; do
            if grep -q "^FSP_API .*\b$name(" "$stand_in"; then
                echo "$name"
            else
                echo "$name = winfsp_real.$name"
            fi
        done <"$folder/names"
    } >"$folder/stand-in.def"
    # Its headers are written for another compiler.
    $tool-gcc -shared -O2 -w -Dstatic_assert=_Static_assert -DWINFSP_DLL_INTERNAL \
        -I"$crate/inc" -o "$folder/winfsp-x64.dll" "$stand_in" "$folder/stand-in.def" \
        -L"$folder" -lwinfsp_real -lws2_32 -ladvapi32
}
