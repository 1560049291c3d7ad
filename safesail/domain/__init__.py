"""The field's words as frozen records. Nothing here reads a file or knows a tensor."""
