# Installs Debian packages that are missing.

# Where Debian puts some of their programs, and not on every user's path.
PATH=$PATH:/usr/sbin:/sbin

# need_packages PROGRAM=PACKAGE…: those whose program is not there. A program
# with a slash in it is a file, and may have a `*` for the architecture.
need_packages() {
    local missing=() pair program
    for pair in "$@"; do
        program=${pair%%=*}
        case $program in
            */*) compgen -G "$program" >/dev/null || missing+=("${pair#*=}") ;;
            *) command -v "$program" >/dev/null 2>&1 || missing+=("${pair#*=}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    install_packages "${missing[@]}"
}

install_packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "These packages are needed; install them and try again: $*" >&2
        return 1
    fi
    echo "Installing $*"
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1 ||
         { apt-get update -qq && apt-get install -qq -y --no-install-recommends "$@" >/dev/null; }' \
        sh "$@"
}

need_rust() {
    command -v cargo >/dev/null 2>&1 || [ ! -e "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null 2>&1 && return 0
    echo "The Rust toolchain is needed (cargo was not found): see https://rustup.rs" >&2
    return 1
}
