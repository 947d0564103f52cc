#!/usr/bin/env bash
# Make what docker-compose.tls.yml mounts: an authority of your own, and a certificate of it for
# the servers and Envoy.
#
#   deploy/certificates.sh [NAME...]    further names that callers know Envoy by
#
# certificates/ca.pem is for the callers (ca_file), certificates/ca.key for nobody.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${FORWARDPASS_IMAGE:-forwardpass:latest}
folder=${CERTIFICATES:-$PWD/certificates}
mounted=$folder/server
names="DNS:server,DNS:envoy,DNS:localhost,IP:127.0.0.1"
for name in "$@"; do names="$names,DNS:$name"; done

umask 077
mkdir -p "$folder"
rm -rf "$mounted"
mkdir "$mounted"
if [ ! -f "$folder/ca.key" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
        -subj "/CN=forwardpass authority" -keyout "$folder/ca.key" -out "$folder/ca.pem" 2>/dev/null
fi
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj "/CN=forwardpass" -keyout "$mounted/key.pem" -out "$folder/request.pem" 2>/dev/null
openssl x509 -req -in "$folder/request.pem" -days 90 -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
    -CAcreateserial -extfile <(echo "subjectAltName=$names") -out "$mounted/cert.pem" 2>/dev/null
rm "$folder/request.pem"
cp "$folder/ca.pem" "$mounted/ca.pem"

# The key is for the containers' user alone, whom this machine does not know; a container does.
docker run --rm --user 0 -v "$mounted:/certificates" --entrypoint python "$image" -c '
import os
for folder, _, names in os.walk("/certificates"):
    for path in (folder, *(os.path.join(folder, name) for name in names)):
        os.chown(path, 10001, 10001)
        os.chmod(path, 0o500 if path == folder else 0o400)
'
echo "made $mounted for $names; callers need $folder/ca.pem"
