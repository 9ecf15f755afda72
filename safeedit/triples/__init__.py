"""Knowledge triples, and the relations and invented names that go with them."""
