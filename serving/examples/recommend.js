// Asks a model for recommendations by gRPC: npm install @grpc/grpc-js @grpc/proto-loader
//
// node recommend.js localhost:8500 demo user-0001 item-0001,item-0002
// node recommend.js localhost:8500 demo user-0001 "" "red shoes"
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const DT_STRING = 7;
const definition = loader.loadSync(path.join(__dirname, "serving.proto"), { keepCase: true });
const { PredictionService } = grpc.loadPackageDefinition(definition).tensorflow.serving;

function strings(values, shape) {
  return {
    dtype: DT_STRING,
    tensor_shape: { dim: shape.map((size) => ({ size })) },
    string_val: values.map((value) => Buffer.from(value)),
  };
}

// A list begins with "": TF Serving fills up the shorter lists of a batch with what theirs begin with.
const one = (value) => strings([value], [1]);
const list = (values) => strings(["", ...values], [1, 1 + values.length]);

// Calls back with [[item id, score]], best first; `history` runs from oldest to newest.
function recommend(client, model, { user = "", history = [], text = "", exclude = [], k = 10 }, done) {
  const inputs = { user_id: one(user), history: list(history), exclude: list(exclude) };
  if (text) Object.assign(inputs, { text: one(text), image: one(""), audio: one("") }); // what is absent is sent as ""
  const spec = { name: model, signature_name: text ? "serving_default" : "recommend_user" };
  client.Predict({ model_spec: spec, inputs }, { deadline: Date.now() + 10000 }, (error, response) => {
    if (error) return done(error);
    const { item_id: ids, score } = response.outputs;
    // A server may send numbers one by one or as bytes.
    const at = (place) => (score.float_val || []).length ? score.float_val[place] : score.tensor_content.readFloatLE(4 * place);
    const pairs = ids.string_val.map((id, place) => [id.toString(), at(place)]);
    done(null, pairs.filter(([id]) => id).slice(0, k));
  });
}

const [target, model, user, history = "", text = ""] = process.argv.slice(2);
const client = new PredictionService(target, grpc.credentials.createInsecure());
recommend(client, model, { user, history: history.split(",").filter(Boolean), text }, (error, found) => {
  if (error) console.error(error.message), (process.exitCode = 1);
  else found.forEach(([id, score]) => console.log(id, score));
  client.close();
});
