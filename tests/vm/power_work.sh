# Backs up, forgets and prunes on a disk of its own until the machine is turned off. Says on the console
# what was reported as saved, and beforehand what is to be forgotten.
. /job/lib.sh
kind=$(cat /job/words) disk=/dev/vdc
say() { echo "$@" >/dev/ttyS0; }
modprobe "$kind"
mkfs."$kind" $disk >/dev/null 2>&1 || mkfs."$kind" -q $disk
mkdir -p /disk
mount $disk /disk
export TRESOR_REPOSITORY=/disk/repo
tresor init -q
kept=()
for generation in $(seq 100000); do
    tree_of "$generation" /data/tree
    id=$(tresor backup --json /data/tree | tail -1 | sed 's/.*"snapshot_id":"\([0-9a-f]*\)".*/\1/')
    kept+=("$id:$generation")
    say "SAVED $id:$generation"
    if [ ${#kept[@]} -gt 5 ]; then
        for entry in "${kept[@]:0:3}"; do
            say "FORGETTING $entry"
            tresor forget -q "${entry%:*}"
        done
        kept=("${kept[@]:3}")
        tresor prune -q --grace 0 --max-unused 0
    fi
done
