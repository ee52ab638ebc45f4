# Installs Debian packages that are missing: `need_packages PROGRAM=PACKAGE…`.

need_packages() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "These packages are needed; install them and try again: ${missing[*]}" >&2
        return 1
    fi
    echo "Installing ${missing[*]}"
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1 ||
         { apt-get update -qq && apt-get install -qq -y --no-install-recommends "$@" >/dev/null; }' \
        sh "${missing[@]}"
}

need_rust() {
    command -v cargo >/dev/null 2>&1 || [ ! -e "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null 2>&1 && return 0
    echo "The Rust toolchain is needed (cargo was not found): see https://rustup.rs" >&2
    return 1
}
