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

# as_root COMMAND…
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "These packages are needed; install them and try again: $*" >&2
        return 1
    fi
    echo "Installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive sh -c \
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

# Where this machine gets Debian's packages from.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's, not the shell's
    local format='$(ORIGIN)|$(RELEASE)|$(REPO_URI)' found
    found=$(apt-get indextargets --format "$format" | awk -F'|' '$1 == "Debian" && $2 !~ /security/ { print $3; exit }')
    if [ -z "$found" ]; then
        echo "This machine gets no packages from a Debian mirror (after 'apt-get update'?)" >&2
        return 1
    fi
    echo "$found"
}

# debian_apart FOLDER RELEASE: prints the path of a configuration with which apt reads another
# release, into FOLDER: what this machine installs from, and its lists, stay as they are.
debian_apart() {
    local folder=$1 release=$2 mirror
    mirror=$(debian_mirror) || return 1
    mkdir -p "$folder/lists/partial" "$folder/archives/partial" || return 1
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$folder/sources.list"
    cat >"$folder/apt.conf" <<END
Dir::State "$folder";
Dir::State::lists "$folder/lists";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$folder";
Dir::Cache::archives "$folder/archives";
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Languages "none";
APT::Sandbox::User "root";
END
    APT_CONFIG=$folder/apt.conf apt-get update -qq >&2 || return 1
    echo "$folder/apt.conf"
}
