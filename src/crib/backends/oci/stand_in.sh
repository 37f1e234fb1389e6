# Stands between conmon and a runtime whose containers are no processes of this host (gVisor).
#
# conmon watches a process, keeps the pipes that its runtime's create had, and files the code with which the process
# ends. Such a runtime names the process of the sandbox for all containers in it, and gives a container the pipes
# that its *start* had. So each container gets a process that stands in for it: it starts the container with conmon's
# pipes when it is told to, waits for its end, and ends with its code.
#
#   sh stand_in.sh BUNDLE CONTAINER RUNTIME [ARGUMENT]... create [ARGUMENT]...      as conmon calls it
#   sh stand_in.sh BUNDLE CONTAINER start                                           as crib calls it
#
# In BUNDLE: `exec.fifo`, there until the container is started; `answer`, the code of the runtime's start;
# `start.log`, its words; `stand_in.cgroup`, the files that a process writes itself to in order to be in the container's
# cgroup, which ends it.

wait_for_start() { # RUNTIME [ARGUMENT]...: the process that stands in
    exec 4<>"$bundle/answer"
    until read -r _ <"$bundle/exec.fifo"; do :; done # again, where a start is killed before it has said so
    rm -f "$bundle/exec.fifo"
    "$@" --log="$bundle/start.log" start "$container" 4>&-
    code=$?
    echo $code >&4
    [ $code = 0 ] || exit $code
    exec </dev/null >/dev/null 2>&1 4>&-
    said=$("$@" wait "$container") || exit 137 # all of the sandbox is gone
    said=${said##*\"exitStatus\":}
    exit "${said%%[!0-9]*}"
}

create() { # as conmon calls it
    "$@" || exit
    for word; do # keep what stands before the verb
        shift
        [ "$word" != create ] || verb=1
        [ -n "$verb" ] || set -- "$@" "$word"
    done
    mkfifo -m 600 "$bundle/exec.fifo" "$bundle/answer" || exit
    while read -r processes; do
        [ ! -e "$processes" ] || echo $$ >"$processes" || exit
    done <"$bundle/stand_in.cgroup"
    exec 3<&0
    wait_for_start "$@" <&3 3<&- &
    echo $! >"$bundle/pidfile"
}

start() {
    echo start >"$bundle/exec.fifo"
    read -r code <"$bundle/answer" && [ -n "$code" ] || code=137
    cat "$bundle/start.log" >&2
    exit "$code"
}

bundle=$1 container=$2 verb=
shift 2
case $1 in
start) start ;;
*) create "$@" ;;
esac
