"""Write the published JSON schemas from the types: ``python .ci/schemas.py``; a test holds the files against them."""

import json
from pathlib import Path

import fxgrow.files.schema
import fxgrow.inspection.schema

DOCS = Path(__file__).parent.parent / "docs"
SCHEMAS = {
    "file_schema.json": fxgrow.files.schema.json_schema,
    "inspection_schema.json": fxgrow.inspection.schema.json_schema,
}

if __name__ == "__main__":
    for name, make in SCHEMAS.items():
        (DOCS / name).write_text(json.dumps(make(), indent=1, sort_keys=True) + "\n")
