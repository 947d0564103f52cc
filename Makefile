.PHONY: proto check lint test docs-images docs-clients docs-page

PROTO = forwardpass/proto/inference.proto

# The generated parts are committed; CI regenerates them and compares.
proto:
	python -m grpc_tools.protoc -Iproto --pyi_out=proto --include_imports \
		--descriptor_set_out=proto/forwardpass/proto/inference.binpb $(PROTO)

# The pictures are committed; a test compares them.
docs-images:
	python docs/images/redraw.py
	python -m forwardpass.models.zoo.training.train --plots-only --plots docs/images

# The tables of what other clients get are committed; a conformance test compares them.
docs-clients:
	PYTHONPATH=tests python -m conformance.support_table

# The pictures of the page, which fonts make a little different everywhere: no test compares them.
docs-page:
	PYTHONPATH=tests:. python -m conformance.browser docs/images/page

# What takes a minute, before what takes ten.
lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test:
	python -m pytest -n 2

# In this order, also where make runs several at a time.
check: lint
	$(MAKE) test
