# Looks at disks as they were when the power failed. /job/words: their names, kinds, and what was saved.
. /job/lib.sh
mkdir -p /disk
lost=0 cuts=0 snapshots=0
while read -r name kind saved; do
    cuts=$((cuts + 1))
    modprobe "$kind"
    if ! mount -o loop "/job/$name" /disk; then
        echo "$name can't be mounted"
        lost=$((lost + 1))
        continue
    fi
    export TRESOR_REPOSITORY=/disk/repo
    # Copies of one repository at different times: each has been seen by nobody else.
    export TRESOR_STATE_DIR=/data/state/$name
    tresor check -q --read-data --no-cache || { echo "$name: check finds something"; lost=$((lost + 1)); }
    for entry in $saved; do
        snapshots=$((snapshots + 1))
        rm -rf /data/out /data/tree
        tree_of "${entry#*:}" /data/tree
        if ! tresor restore -q --no-cache "${entry%:*}:/data/tree" --target /data/out || ! diff -r /data/tree /data/out; then
            echo "$name: $entry is not what was saved"
            lost=$((lost + 1))
        fi
    done
    # And it goes on.
    tree_of 7 /data/tree
    tresor backup -q --no-cache /data/tree && tresor prune -q --no-cache --grace 0 || { echo "$name: it can't go on"; lost=$((lost + 1)); }
    umount /disk
    rm "/job/$name"
done </job/words
echo "$cuts cuts, $snapshots snapshots restored, $lost problems"
[ $lost = 0 ]
