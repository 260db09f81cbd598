"""The verbs of ``cwgpt``: each module reads its flags and joins the rooms it needs."""
