# shellcheck shell=bash
# What it takes to build for Windows on Debian. Needs cross.sh.

windows_target=x86_64-pc-windows-gnu

# build_windows CARGO-ARGUMENTS…: cargo for Windows, with the gcc of mingw.
build_windows() {
    need_packages x86_64-w64-mingw32-gcc=gcc-mingw-w64-x86-64 x86_64-w64-mingw32-g++=g++-mingw-w64-x86-64 \
        x86_64-w64-mingw32-dlltool=binutils-mingw-w64-x86-64 nasm=nasm
    CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc \
        cargo_for "$windows_target" cargo "$@"
}

# check_windows_msvc CARGO-ARGUMENTS…: for Microsoft's compiler, which can't be had here:
# Rust is checked, and what is in C (aws-lc, zstd, BLAKE3) is not compiled at all.
check_windows_msvc() {
    local target=x86_64-pc-windows-msvc none=$PWD/scripts/lib/no-compiler
    local suffix=${target//-/_}
    (
        export "CC_$suffix=$none" "CXX_$suffix=$none" "AR_$suffix=$none" "CC_MASM_ASM_$suffix=$none"
        # The assembler's part of aws-lc comes with it, assembled.
        export AWS_LC_SYS_PREBUILT_NASM=1
        cargo_for "$target" cargo "$@"
    )
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

# build_test_vss FOLDER: what stands in for the Volume Shadow Copy Service (tests/windows/vss.cpp).
build_test_vss() {
    x86_64-w64-mingw32-g++ -std=c++17 -shared -O1 -Wall -static -o "$1/vssapi.dll" tests/windows/vss.cpp \
        -lole32 -loleaut32 -luuid
}
