#!/usr/bin/env bash
# Make what docker-compose.tls.yml mounts: an authority of your own, a certificate of it for the
# servers and Envoy, and a first token. Run it again for a new certificate: what runs picks it up.
#
#   deploy/certificates.sh [NAME...]    further names that callers know Envoy by
#
# Of the folder `certificates` callers need ca.pem (ca_file) and the token; ca.key is for nobody.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${FORWARDPASS_IMAGE:-forwardpass:latest}
folder=${CERTIFICATES:-$PWD/certificates}
names=DNS:server,DNS:envoy,DNS:localhost,IP:127.0.0.1
for name in "$@"; do names=$names,DNS:$name; done

umask 077
mkdir -p "$folder/server"
new=$(mktemp -d "$folder/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
curve=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
if [ ! -f "$folder/ca.key" ]; then
    openssl req -x509 "${curve[@]}" -days 3650 -subj "/CN=forwardpass authority" \
        -keyout "$folder/ca.key" -out "$folder/ca.pem" 2>/dev/null
fi
openssl req -new "${curve[@]}" -subj /CN=forwardpass \
    -keyout "$new/key.pem" -out "$new/request" 2>/dev/null
openssl x509 -req -in "$new/request" -days 90 -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
    -CAcreateserial -extfile <(echo "subjectAltName=$names") -out "$new/cert.pem" 2>/dev/null
rm "$new/request"
cp "$folder/ca.pem" "$new"
if [ ! -f "$folder/token" ]; then
    docker run --rm "$image" token first --models '*' --calls infer,read \
        >"$new/tokens.jsonl" 2>"$new/said"
    sed -n 's/.*: \(fp_.*\)/\1/p' "$new/said" >"$folder/token"
    rm "$new/said"
fi

# The key is for the containers' user alone, whom this machine does not know, but a container does.
# A rename is what Envoy watches for, and never shows half a file.
docker run --rm --user 0 -v "$folder:/folder" --entrypoint python "$image" -c '
import os, sys
new, mounted = "/folder/" + sys.argv[1], "/folder/server"
for name in sorted(os.listdir(new)):
    os.chmod(f"{new}/{name}", 0o400)
    os.chown(f"{new}/{name}", 10001, 10001)
    os.replace(f"{new}/{name}", f"{mounted}/{name}")
os.chown(mounted, 10001, 10001)
' "$(basename "$new")"
echo "made $folder/server for $names; callers need $folder/ca.pem and the token in $folder/token"
