"""The CustomResourceDefinition, generated from the pydantic models; `moe crd` prints it."""
