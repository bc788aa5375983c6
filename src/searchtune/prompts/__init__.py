"""What language models are told and how their replies are read: one module per role, and the messages all share."""
