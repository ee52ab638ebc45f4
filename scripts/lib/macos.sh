# shellcheck shell=bash
# What it takes to build for macOS on Debian: Zig, which brings a C compiler, a linker and the
# lists of what macOS' libraries have, and cargo-zigbuild, which makes cargo use it. Both come
# from PyPI. Needs packages.sh and cross.sh.

ZIGBUILD_VERSION=0.24.0
ZIG_VERSION=0.17.1

# The first for Apple's processors. Without saying so the program would be for Zig's choice.
MACOS_OLDEST=11.0

zig_folder=${TRESOR_CROSS_CACHE:-$HOME/.cache/tresor-cross}/zig-$ZIG_VERSION-$ZIGBUILD_VERSION

# need_zig: into an environment of its own. A mark tells that it is complete.
need_zig() {
    [ ! -e "$zig_folder/complete" ] || return 0
    need_packages /usr/bin/python3=python3 '/usr/lib/python3*/ensurepip/__init__.py=python3-venv' || return 1
    echo "Installing Zig $ZIG_VERSION into $zig_folder"
    rm -rf "$zig_folder"
    /usr/bin/python3 -m venv "$zig_folder" &&
        "$zig_folder/bin/pip" install -q "cargo-zigbuild==$ZIGBUILD_VERSION" "ziglang==$ZIG_VERSION" &&
        touch "$zig_folder/complete"
}

# cargo_macos TARGET COMMAND ARGUMENTS…: `zigbuild`, `check` or `clippy`.
cargo_macos() {
    need_zig >&2 || return 1
    local target=$1
    # Its commands name Zig as the compiler, and then are cargo's.
    PATH=$zig_folder/bin:$PATH MACOSX_DEPLOYMENT_TARGET=$MACOS_OLDEST \
        cargo_for "$target" cargo-zigbuild "${@:2}"
}

# is_macos_program TARGET FILE: whether it is what macOS runs on that processor, also the
# oldest that is meant, and needs nothing but what every Mac has.
is_macos_program() {
    /usr/bin/python3 scripts/lib/macho.py "$1" "$MACOS_OLDEST" "$2"
}
