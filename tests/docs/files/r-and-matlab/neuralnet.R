# What neuralnet's `weights[[1]]` and `predict` are for hidden = c(5, 3), act.fct = "tanh" and
# linear.output = TRUE, with random weights: neuralnet itself is not in Debian.
set.seed(1)
sizes <- c(3, 5, 3, 1)
weights <- lapply(1:3, function(i) matrix(rnorm((1 + sizes[i]) * sizes[i + 1]), 1 + sizes[i]))
for (i in seq_along(weights)) {
  name <- paste0("layer", i, ".csv")
  write.table(weights[[i]], name, sep = ",", row.names = FALSE, col.names = FALSE)
}
x <- data.frame(a = rnorm(20), b = rnorm(20), c = rnorm(20))
a <- as.matrix(x)
for (i in 1:2) a <- tanh(cbind(1, a) %*% weights[[i]])
write.csv(x, "nn_x.csv", row.names = FALSE)
write.csv(cbind(1, a) %*% weights[[3]], "nn_y.csv", row.names = FALSE)
