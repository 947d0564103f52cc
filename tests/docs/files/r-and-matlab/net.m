% A struct with the fields of a `fitnet` that docs/r-and-matlab.md reads, and net.mat by the lines
% of that page. Run by GNU Octave 7.3: octave --no-gui net.m
rand('state', 1); randn('state', 1);
x = [20 + 60 * rand(1, 30); 7 * ones(1, 30); 1e-3 * randn(1, 30); 1e5 * rand(1, 30)];
t = 1000 + 300 * rand(2, 30);

function settings = mapminmax_settings(x)
  settings.name = 'mapminmax';
  settings.ymin = -1;
  settings.xoffset = min(x, [], 2);
  settings.gain = 2 ./ (max(x, [], 2) - settings.xoffset);
end

keep = [1 3 4];  % the second row is constant
net.inputs = {struct('processSettings', {{struct('keep', keep), mapminmax_settings(x(keep, :))}})};
net.outputs = {[], struct('processSettings', {{struct('keep', 1:2), mapminmax_settings(t)}})};
net.IW = {randn(5, 3); []};
net.LW = {[], []; randn(2, 5), []};
net.b = {randn(5, 1); randn(2, 1)};

% As the code that genFunction writes computes it.
p = net.inputs{1}.processSettings{2};
a = (x(keep, :) - p.xoffset) .* p.gain + p.ymin;
a = 2 ./ (1 + exp(-2 * (net.IW{1,1} * a + net.b{1}))) - 1;
a = net.LW{2,1} * a + net.b{2};
p = net.outputs{2}.processSettings{2};
y = (a - p.ymin) ./ p.gain + p.xoffset;

W1 = net.IW{1,1}; b1 = net.b{1}; W2 = net.LW{2,1}; b2 = net.b{2};
x_keep = net.inputs{1}.processSettings{1}.keep;
p = net.inputs{1}.processSettings{2};
x_gain = p.gain; x_offset = p.xoffset; x_ymin = p.ymin;
p = net.outputs{2}.processSettings{2};
y_gain = p.gain; y_offset = p.xoffset; y_ymin = p.ymin;
save('net.mat', 'W1', 'b1', 'W2', 'b2', 'x_keep', 'x_gain', 'x_offset', 'x_ymin', ...
     'y_gain', 'y_offset', 'y_ymin', 'x', 'y', '-v7')
