"""A model behind HTTP: :func:`weft.serve.app.create_app` makes the application, ``weft serve`` runs it."""
