.PHONY: proto check test docs-images docs-clients

PROTO = forwardpass/proto/inference.proto

# The generated parts are committed; CI regenerates them and compares.
proto:
	python -m grpc_tools.protoc -Iproto --pyi_out=proto --include_imports \
		--descriptor_set_out=proto/forwardpass/proto/inference.binpb $(PROTO)

# The pictures are committed; a test compares them.
docs-images:
	python docs/images/redraw.py
	python -m forwardpass.models.zoo.train --plots-only --plots docs/images

# The tables of what other clients get are committed; a conformance test compares them.
docs-clients:
	PYTHONPATH=tests python -m conformance.support_table

test:
	python -m pytest -n 2

check: test
	ruff check .
	ruff format --check .
	mypy
	lint-imports
