# shellcheck shell=bash
# What it takes to build for another system.

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

# cargo_for TARGET CARGO COMMAND ARGUMENTS…: cargo, or what is called like it, for that
# system. Variables for C compilers and linkers are the caller's.
cargo_for() {
    local target=$1 cargo=$2 command=$3 flags
    flags=$(std_flags "$target") || return 1
    # shellcheck disable=SC2086 # no option rather than an empty one
    env ${flags:+RUSTC_BOOTSTRAP=1} "$cargo" "$command" --target "$target" $flags "${@:4}"
}
