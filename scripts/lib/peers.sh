# shellcheck shell=bash
# Installs the programs that scripts/bench compares tresor with. Versions are pinned, so
# that figures from different days can be compared; to take newer ones, change them here
# and say so where the figures stand.
#
# Each need_NAME sets BENCH_NAME to the program, unless it names one already, and installs
# it into a cache folder if it isn't there. They return 1 if that can't be done.

RESTIC_VERSION=0.19.1
RUSTIC_VERSION=0.11.4
BORG_VERSION=1.4.5
PYFUSE3_VERSION=3.5.0
BUPSTASH_VERSION=0.12.0
# Two point releases of one kernel, Debian's linux-source-6.1.
KERNEL_VERSION=6.1.190-1
KERNEL_NEXT_VERSION=6.1.192-1

peer_cache=${TRESOR_BENCH_CACHE:-$HOME/.cache/tresor-bench}

# peer_from_cache VARIABLE FOLDER PROGRAM INSTALLER: the installer is called with a new
# folder to fill. A mark tells that it is complete; a folder made under another name can't
# be moved into place, since a venv holds its own path.
peer_from_cache() {
    local variable=$1 folder=$peer_cache/$2 program=$3 installer=$4
    if [ -n "${!variable:-}" ]; then
        [ -x "${!variable}" ] && return 0
        echo "$variable: ${!variable} is no program" >&2
        return 1
    fi
    if [ ! -e "$folder/complete" ]; then
        rm -rf "$folder"
        mkdir -p "$folder" || return 1
        echo "Installing $2 into $peer_cache" >&2
        "$installer" "$folder" || return 1
        touch "$folder/complete"
    fi
    export "$variable=$folder/$program"
}

need_restic() {
    peer_from_cache BENCH_RESTIC "restic-$RESTIC_VERSION" usr/bin/restic install_restic
}

need_rustic() {
    peer_from_cache BENCH_RUSTIC "rustic-$RUSTIC_VERSION" bin/rustic install_rustic
}

need_borg() {
    peer_from_cache BENCH_BORG "borg-$BORG_VERSION" bin/borg install_borg
}

# The data of the group `backup`: archives of the sources, not installed.
need_kernels() {
    need_kernel BENCH_KERNEL "$KERNEL_VERSION" && need_kernel BENCH_KERNEL_NEXT "$KERNEL_NEXT_VERSION"
}

need_kernel() {
    local variable=$1 version=$2
    local archive=$peer_cache/linux-source-6.1_$version.tar.xz folder
    [ -z "${!variable:-}" ] || return 0
    if [ ! -e "$archive" ]; then
        echo "Fetching linux-source-6.1 $version into $peer_cache" >&2
        folder=$(mktemp -d) || return 1
        # Lists that are old or empty know nothing of it.
        if ! { unpack_kernel "$folder" "$version" || { as_root apt-get update -qq && unpack_kernel "$folder" "$version"; }; } >&2; then
            rm -rf "$folder"
            echo "The mirror has no linux-source-6.1 $version (any more); name an archive with $variable" >&2
            return 1
        fi
        mkdir -p "$peer_cache" && cp "$folder"/usr/src/linux-source-6.1.tar.xz "$archive.part" && mv "$archive.part" "$archive"
        rm -rf "$folder"
    fi
    export "$variable=$archive"
}

# unpack_kernel FOLDER VERSION
unpack_kernel() {
    (cd "$1" && apt-get download -qq -o APT::Sandbox::User=root "linux-source-6.1=$2" && dpkg -x ./*.deb .)
}

need_bupstash() {
    peer_from_cache BENCH_BUPSTASH "bupstash-$BUPSTASH_VERSION" bin/bupstash install_bupstash
}

# Debian 12 has a restic from 2022. The one from sid is a single static program, so it is
# unpacked, not installed; the machine's own package lists stay as they are.
install_restic() {
    local folder=$1 apt=$1/apt config file
    command -v dpkg >/dev/null 2>&1 || {
        echo "restic $RESTIC_VERSION comes from Debian's packages; elsewhere name one with BENCH_RESTIC" >&2
        return 1
    }
    config=$(debian_apart "$apt" sid) || return 1
    if ! (cd "$apt" && APT_CONFIG=$config apt-get download -qq "restic=$RESTIC_VERSION-*") >&2; then
        echo "Debian sid has no restic $RESTIC_VERSION any more; name one with BENCH_RESTIC" >&2
        return 1
    fi
    file=$(compgen -G "$apt/restic_*.deb") && dpkg -x "$file" "$folder" && rm -rf "$apt"
}

install_borg() {
    need_packages cc=build-essential pkg-config=pkg-config /usr/bin/python3-config=python3-dev \
        '/usr/lib/python3*/ensurepip/__init__.py=python3-venv' \
        /usr/include/sys/acl.h=libacl1-dev /usr/include/lz4.h=liblz4-dev /usr/include/zstd.h=libzstd-dev \
        /usr/include/xxhash.h=libxxhash-dev /usr/include/openssl/ssl.h=libssl-dev \
        /usr/include/fuse3/fuse.h=libfuse3-dev >&2 || return 1
    /usr/bin/python3 -m venv "$1" >&2 &&
        "$1/bin/pip" install -q "borgbackup==$BORG_VERSION" "pyfuse3==$PYFUSE3_VERSION" >&2
}

install_rustic() {
    echo "rustic is compiled; that takes about 20 minutes on two cores" >&2
    install_crate "$1" rustic-rs "$RUSTIC_VERSION" --features mount
}

install_bupstash() {
    need_packages /usr/include/sodium.h=libsodium-dev >&2 || return 1
    install_crate "$1" bupstash "$BUPSTASH_VERSION"
}

# install_crate FOLDER CRATE VERSION OPTION…
install_crate() {
    local folder=$1 crate=$2 version=$3
    shift 3
    need_rust && need_packages cc=build-essential pkg-config=pkg-config >&2 || return 1
    cargo install --quiet --root "$folder" --locked "$crate" --version "$version" "$@" >&2
}
