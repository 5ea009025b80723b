"""PostgreSQL: the pool, the migrations, and one module for each table family."""
