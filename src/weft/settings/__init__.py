"""Settings from outside, and what is wrong with them in one clear sentence.

`StrictModel` is the base of every pydantic model, `validate` makes one of a mapping.
`settings.files` reads mappings and models from files, `settings.yaml_documents` parses YAML.
"""

from weft.settings.model import StrictModel as StrictModel
from weft.settings.model import as_written as as_written
from weft.settings.model import field_errors as field_errors
from weft.settings.model import near_field as near_field
from weft.settings.model import validate as validate
