# Trains networks of nnet, and writes each one's weights, sizes, rows and predictions, as
# docs/r-and-matlab.md does.
library(nnet)

save <- function(name, model, x, y = predict(model, x)) {
  part <- function(what) paste0(name, "_", what, ".csv")
  write.table(model$wts, part("wts"), row.names = FALSE, col.names = FALSE)
  write.table(model$n, part("n"), row.names = FALSE, col.names = FALSE)
  write.csv(x, part("x"), row.names = FALSE)
  write.csv(y, part("y"), row.names = FALSE)
}
fit <- function(...) {
  set.seed(1)
  nnet(..., trace = FALSE, maxit = 500)
}

x <- scale(iris[1:4])
save("softmax", fit(x, class.ind(iris$Species), size = 4, decay = 0.01, softmax = TRUE), x)
save("skipping_softmax", fit(Species ~ ., iris, size = 3, decay = 0.01, skip = TRUE), iris[1:4])

two <- droplevels(iris[iris$Species != "setosa", ])
save("two_levels", fit(Species ~ ., two, size = 3, decay = 0.1), two[1:4])
classes <- class.ind(two$Species)
x <- scale(two[1:4])
save("entropy", fit(x, classes, size = 3, decay = 0.1, entropy = TRUE), x)

# A factor among the predictors: the rows are those of the model matrix.
infert$case <- factor(infert$case)
model <- fit(case ~ education + age + parity + spontaneous, infert, size = 2, decay = 0.1)
save("factors", model, model.matrix(model$terms, infert)[, -1], predict(model, infert))

x <- mtcars[c("wt", "hp", "qsec", "am")]
save("linear", fit(x, mtcars[c("mpg", "disp")], size = 3, decay = 0.1, linout = TRUE), x)
save("skipping", fit(x, mtcars$mpg, size = 3, decay = 0.1, linout = TRUE, skip = TRUE), x)
save("not_linear", fit(x, mtcars$mpg / 50, size = 3, decay = 0.1), x)

# Sums beyond 15, where nnet's sigmoid is exactly 0 or 1.
save("saturated", nnet(matrix(0), 0, size = 2, Wts = c(0, 1, 0, -1, 1, 2, 3), rang = 0, maxit = 0,
                       trace = FALSE, linout = TRUE), matrix(c(-20, -15.001, -14, 0, 14, 15.001, 20)))

# The same of multinom, whose weights are read from its coefficients.
for (rows in list(list("multinom", iris), list("two_multinom", two))) {
  model <- multinom(Species ~ ., rows[[2]], decay = 0.1, maxit = 500, trace = FALSE)
  save(rows[[1]], model, rows[[2]][1:4], predict(model, rows[[2]], type = "probs"))
  coefficients <- matrix(coef(model), ncol = 5)
  write.csv(coefficients, paste0(rows[[1]], "_coef.csv"), row.names = FALSE)
}
