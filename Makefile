.PHONY: proto check test docs-images

PROTO = forwardpass/proto/inference.proto

# The generated parts are committed; CI regenerates them and compares.
proto:
	python -m grpc_tools.protoc -Iproto --pyi_out=proto --include_imports \
		--descriptor_set_out=proto/forwardpass/proto/inference.binpb $(PROTO)

# The pictures are committed; a test compares them.
docs-images:
	python docs/images/redraw.py
	python -m forwardpass.models.zoo.train --plots-only --plots docs/images

test:
	python -m pytest

check: test
	ruff check .
	ruff format --check .
	mypy
	lint-imports
