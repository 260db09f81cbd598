"""Attribution methods and what is measured beside them."""
