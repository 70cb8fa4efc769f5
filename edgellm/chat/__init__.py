"""Chat: messages, templates in a sandbox, and which of a prompt's characters a person wrote."""
