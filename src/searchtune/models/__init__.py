"""Loading, adapting, running and saving neural models.

The only room that calls peft; it does not know training or tasks.
"""
