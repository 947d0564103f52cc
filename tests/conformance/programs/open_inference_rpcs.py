"""The published stub of the Open Inference Protocol.

Its versions are optional fields: an empty one that is set travels all the same. See report.py.
"""

import grpc
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub
from report import Report
from six_rpcs import SixRpcs


def main() -> None:
    with Report("open-inference-grpc") as report, grpc.insecure_channel(report.target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        SixRpcs(report, pb, stub, grpc.Compression.Gzip).try_all()


main()
