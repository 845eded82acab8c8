# The quick gate, after ./test has set .venv up once.
BIN := .venv/bin

.PHONY: check test
check:
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m pytest tests/tidy

test:
	./test
