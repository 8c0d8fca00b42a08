"""The processes of the agent: one zygote, a worker for each layer, and keepers."""
