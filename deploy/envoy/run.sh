#!/usr/bin/env bash
# Envoy as process 1 of its container. By itself it ends at once at SIGTERM, and with it every call
# in flight. Here it first asks its callers to leave (GOAWAY with the next answer), for as long as
# our servers do, and then ends when no call is in flight.
#
#   run.sh OPTION...   of Envoy
#
#   DRAIN_S   seconds in which it still takes calls, so that balancers turn away first; 5
#   GRACE_S   maximum time after that for calls in flight, in seconds; 30
set -u
drain_s=${DRAIN_S:-5}
grace_s=${GRACE_S:-30}
admin_port=${ADMIN_PORT:-9901}

# Neither curl nor wget is in the image.
admin() { # METHOD PATH
    (
        exec 3<>"/dev/tcp/127.0.0.1/$admin_port" || exit 1
        printf '%s %s HTTP/1.1\r\nHost: envoy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' \
            "$1" "$2" >&3
        cat <&3
    ) 2>/dev/null
}

calls_in_flight() {
    admin GET '/stats?filter=%5Ehttp.grpc.downstream_rq_active%24' | grep -q 'active: [1-9]'
}

end() {
    trap '' TERM INT
    # skip_exit: otherwise Envoy ends when --drain-time-s are over, whatever is in flight.
    admin POST '/drain_listeners?graceful&skip_exit' >/dev/null
    sleep "$drain_s"
    SECONDS=0
    while calls_in_flight && [ "$SECONDS" -lt "$grace_s" ]; do sleep 0.2; done
    kill -TERM "$envoy"
}

# Two workers: those of the container's CPUs. By default one for each of the machine's.
# At once: by default answers ask callers to leave ever more often, over ten minutes.
envoy --log-level warning --disable-hot-restart --concurrency 2 \
    --drain-time-s "$drain_s" --drain-strategy immediate "$@" &
envoy=$!
trap end TERM INT
code=0
# A signal interrupts `wait`.
while kill -0 "$envoy" 2>/dev/null; do
    wait "$envoy"
    code=$?
done
exit "$code"
