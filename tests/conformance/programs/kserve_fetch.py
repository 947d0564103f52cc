"""KServe's storage initializer, as its init container runs it, over an object store.

python kserve_fetch.py SOURCE URI FOLDER [URI FOLDER ...]

The files of SOURCE are in the bucket `store`; each URI is fetched into its folder.
"""

import os
import sys
from pathlib import Path

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "S3_USE_HTTPS": "0",
}

import boto3  # noqa: E402
from kserve_storage import Storage  # noqa: E402

source, *places = sys.argv[1:]
store = boto3.client("s3")
store.create_bucket(Bucket="store")
for file in Path(source).rglob("*.*"):
    if file.is_file():
        store.upload_file(str(file), "store", str(file.relative_to(source)))
Storage.download_files(places[::2], places[1::2])
server.stop()
